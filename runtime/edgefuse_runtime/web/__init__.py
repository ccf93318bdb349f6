"""Pages in a browser: their server, its access rules, their files; and the page of `edgefuse live --web`, in a process of its own."""
