-- One database a service: each owns its own.
CREATE DATABASE data;
CREATE DATABASE training;
CREATE DATABASE registry;
CREATE DATABASE scheduler;
CREATE DATABASE inference;
