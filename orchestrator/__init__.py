"""Creates studies, samples, dispatches, prunes, answers. Imports justright, never worker."""
