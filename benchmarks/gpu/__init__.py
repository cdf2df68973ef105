"""What one GPU does, measured part by part: `python -m benchmarks.gpu`."""
