"""What people look at: pages of ECG paper, reports, copies."""
