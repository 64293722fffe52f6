"""What `fuzz_pgwire.py` plays: mutations, and the claims that must survive them."""
