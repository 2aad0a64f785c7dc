"""The API: partial profiles in, receipts out; profiles read."""
