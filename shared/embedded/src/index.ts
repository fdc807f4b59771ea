export { freePort, temporaryFolder } from './folder.ts';
export { type NatsBinary, type NatsOptions, type NatsServer, obtainNatsServer, startNats } from './nats.ts';
export { type PostgresOptions, type PostgresServer, pgBinaries, startPostgres } from './postgres.ts';
export { alive } from './server-process.ts';
