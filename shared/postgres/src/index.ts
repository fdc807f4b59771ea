export { type CatalogColumn, type CatalogTable, CATALOG_FINGERPRINT, readTables, tableSchemaOf } from './catalog.ts';
export { type ConnectionConfig, describeConnection } from './connection.ts';
export { databaseFault, sqlState } from './fault.ts';
export { quoteIdent, quoteLiteral, quoteTable } from './identifier.ts';
export { ReplicationReader, type ReplicationOptions } from './replication/reader.ts';
export { type CopyInto, Session, type SessionOptions } from './session.ts';
export { TypeCatalog } from './types.ts';
export { Visibility } from './visibility.ts';
