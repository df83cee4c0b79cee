"""What needs records and images together: exported masks, figures of cases."""
