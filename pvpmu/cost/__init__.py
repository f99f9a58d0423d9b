"""Cost models: files, fits, intervals, calibration of this machine, prediction."""
