"""What the benchmarks beside this package are made of: one idea a module."""
