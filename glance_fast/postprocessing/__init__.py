"""From the scores of the patches to an anomaly map, an image score, a threshold and a result."""
