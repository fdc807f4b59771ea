export { startTransforms } from './main.ts';
export type { ModuleBatch, ModuleContext, ModuleResult, ModuleRow, ModuleValue, TransformModule } from './module.ts';
export { type ModuleTrial, testModule } from './test-module.ts';
export { type Preview, previewTransform, type TablePreview } from './preview.ts';
