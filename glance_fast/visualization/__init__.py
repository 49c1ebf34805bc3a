"""Pictures of results: heat maps over photographs, plots."""
