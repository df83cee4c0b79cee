"""File formats in and out: pictures and NIfTI volumes, whatever the data set."""
