"""The first simulator, kept until every test of it has moved to the new one."""
