"""HTTP: the resolver factory, problem documents, scopes and cursors."""
