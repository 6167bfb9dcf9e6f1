"""Contacts -> graphs: normalisation, significance, edges, node features, shards for training."""
