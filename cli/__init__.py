"""The command line: runs in their folders, without a server, and jobs on a running one."""
