"""Pictures of results: overlays of anomaly maps on photographs, and plots."""
