"""What carries out the engine's decisions with trio: sockets, the durable record, tasks."""
