"""Many runs: sweeps, their workers and display, the regression check."""
