export { compareDocuments, holdsSecret } from './documents.ts';
export { configJsonSchema } from './json-schema.ts';
export { bundleModule } from './modules.ts';
export { configOf, kpisOf, processesOf, loadConfig, readFiles, testedKpis } from './load.ts';
