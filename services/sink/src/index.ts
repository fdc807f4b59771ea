export { startSinks } from './main.ts';
export { checkOds } from './ods/check.ts';
