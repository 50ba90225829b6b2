"""What lasts: Postgres, the lease on a running trial, artifacts. No torch, no training."""
