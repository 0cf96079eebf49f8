"""Takes jobs from the queue, trains, reports. Imports justright, never orchestrator."""
