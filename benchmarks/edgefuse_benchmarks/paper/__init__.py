"""The paper's tables: variants, folds, cross-validation, reports."""
