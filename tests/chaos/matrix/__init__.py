"""Every process of every node is killed, stopped and cut off, one by one and two at a time."""
