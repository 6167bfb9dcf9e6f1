def test_slurm__runs_jobs_on_three_nodes(slurm):
    assert sorted(slurm.run("srun", "-N3", "printenv", "SLURMD_NODENAME").split()) == ["n1", "n2", "n3"]
