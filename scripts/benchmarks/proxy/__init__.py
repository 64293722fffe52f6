"""Parts of `scripts/bench proxy`: the same clients through metako's proxy and through its peers."""
