export { startTransforms } from './main.ts';
