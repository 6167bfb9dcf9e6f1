# Refits of the four models of an enhancer pair on resampled cells with glm, timed. Called by epistasis.py:
#
#   Rscript epistasis.R PAIR.csv N_RESAMPLES SEED
#
# PAIR.csv: one row per cell, columns exprs, enhancer_1, enhancer_2 (0/1), nUMI, percent.mito. Prints one line of JSON:
# coefficients of 10, 01, 11 and the interaction on all cells, and user CPU seconds a resample and refit of each.

fit <- function(cells, term, rows) {
  cells <- cells[rows, , drop = FALSE]
  glm(reformulate(c(term, "percent.mito", "offset(log(nUMI))"), "exprs"), family = poisson, data = cells)
}

args <- commandArgs(trailingOnly = TRUE)
cells <- read.csv(args[1])
n_resamples <- as.integer(args[2])
set.seed(as.integer(args[3]))

cells$both <- cells$enhancer_1 * cells$enhancer_2
models <- list( # cells of the model, its term, the coefficient of interest
  list(which(cells$enhancer_2 == 0), "enhancer_1", "enhancer_1"),
  list(which(cells$enhancer_1 == 0), "enhancer_2", "enhancer_2"),
  list(which(cells$enhancer_1 == cells$enhancer_2), "both", "both"),
  list(seq_len(nrow(cells)), "enhancer_1 * enhancer_2", "enhancer_1:enhancer_2")
)
beta <- seconds <- numeric(0)
for (model in models) {
  beta <- c(beta, coef(fit(cells, model[[2]], model[[1]]))[[model[[3]]]])
  for (k in 1:10) fit(cells, model[[2]], model[[1]]) # R compiles functions after their first calls
  invisible(gc(full = TRUE))
  began <- proc.time()
  for (k in seq_len(n_resamples)) {
    drawn <- sample(model[[1]], replace = TRUE)
    coef(fit(cells, model[[2]], drawn))[[model[[3]]]]
  }
  seconds <- c(seconds, (proc.time() - began)[["user.self"]] / n_resamples)
}
join <- function(x) paste(sprintf("%.17g", x), collapse = ", ")
cat(sprintf('{"beta": [%s], "seconds": [%s]}\n', join(beta), join(seconds)))
