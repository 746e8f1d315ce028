"""From prompts to batched passes and refinement."""
