export { compareDocuments, holdsSecret } from './documents.ts';
export { configJsonSchema } from './json-schema.ts';
export { configOf, loadConfig, readFiles } from './load.ts';
