"""Lanes: long-lived Ray Train worker groups, and the broker that hands them work."""
