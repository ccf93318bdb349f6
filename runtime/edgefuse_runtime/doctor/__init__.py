"""What `edgefuse doctor` checks: the machine, the packages and the libraries under them. `report.examine` runs all of it.

Packages are imported in child processes (`probe`, `libraries`), because an import may crash, hang or take seconds; what they
report becomes one `Check` per component (`packages`, `machine`).
"""
