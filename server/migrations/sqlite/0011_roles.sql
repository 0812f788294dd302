-- What the holder of a token may do: viewer, operator, admin or edge. The scopes read and write were viewer and admin.
ALTER TABLE tokens RENAME COLUMN scope TO role;
UPDATE tokens SET role = 'viewer' WHERE role = 'read';
UPDATE tokens SET role = 'admin' WHERE role = 'write';
