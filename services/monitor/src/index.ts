export type { ProcessQuestion } from './answers.ts';
export { type ImportOptions, importLog } from './exchange/import.ts';
export { EXPORT_FORMATS } from './exchange/export.ts';
export { answerImported, importedNames } from './imported.ts';
export type { ProcessMap } from './analysis/map.ts';
export type { Variant } from './analysis/variants.ts';
export type { ProcessCase } from './analysis/cases.ts';
