-- Connections and variables. What may be secret is sealed before it comes here: a version, a nonce, and the ciphertext of
-- XChaCha20-Poly1305, bound to what the other columns say. `key_id` names the key and tells nothing about it.

create table connection (
    connection_id text not null constraint connection_pkey primary key,
    connection_type text not null,
    description text not null default '',
    key_id text not null,
    sealed bytea not null,
    updated_at timestamptz not null default now(),
    constraint connection_id_is_a_name check (connection_id ~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$'),
    constraint connection_sealed_fits check (octet_length(sealed) between 41 and 1048576)
);

create table variable (
    variable_name text not null constraint variable_pkey primary key,
    is_secret boolean not null,
    description text not null default '',
    key_id text not null,
    sealed bytea not null,
    updated_at timestamptz not null default now(),
    constraint variable_name_is_a_name check (variable_name ~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$'),
    constraint variable_sealed_fits check (octet_length(sealed) between 41 and 1048576)
);
