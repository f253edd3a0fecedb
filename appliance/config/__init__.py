"""The operator's wishes: one typed value, from defaults, file, environment and flags."""
