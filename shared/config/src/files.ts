export { compareDocuments, documentIn, holdsSecret } from './documents.ts';
export { configJsonSchema } from './json-schema.ts';
export { bundleModule } from './modules.ts';
export { configOf, configWith, kpisOf, processesOf, loadConfig, readFiles, testedKpis } from './load.ts';
