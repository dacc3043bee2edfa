"""One file a peer: `run(start, trace)` trains from `start` and tells `trace` how far it got."""
