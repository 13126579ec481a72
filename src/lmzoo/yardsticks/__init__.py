"""Zero-shot measurements that any backbone can take."""
