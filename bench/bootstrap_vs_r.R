# Refits of SCENT's Poisson model on resampled cells with boot::boot, timed. Called by monocytes.py:
#
#   Rscript bootstrap_vs_r.R PAIR.csv N_RESAMPLES SEED
#
# PAIR.csv: one row per cell, columns exprs, atac (0/1), nUMI, percent.mito. Prints one line of JSON: coefficient of
# atac on all cells, fits made and their user CPU seconds, standard deviation of the resampled coefficients.

atac_coefficient <- function(cells, drawn) {
  fit <- glm(exprs ~ atac + log(nUMI) + percent.mito, family = poisson, data = cells[drawn, , drop = FALSE])
  coef(fit)[["atac"]]
}

args <- commandArgs(trailingOnly = TRUE)
cells <- read.csv(args[1])
n_resamples <- as.integer(args[2])
set.seed(as.integer(args[3]))

invisible(boot::boot(cells, atac_coefficient, R = 10)) # R compiles functions after their first calls
invisible(gc(full = TRUE))
began <- proc.time()
result <- boot::boot(cells, atac_coefficient, R = n_resamples)
user_s <- (proc.time() - began)[["user.self"]]

# boot fits the original sample too, hence one fit more than resamples
cat(sprintf('{"beta": %.17g, "refits": %d, "seconds": %.3f, "boot_sd": %.17g}\n',
            result$t0, n_resamples + 1L, user_s, sd(result$t)))
