import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';

/**
 * What a consumer made of the events: the newest row of each key, how many changes it took, and where it goes on. One file,
 * replaced as a whole: effect and place are one write, so that a crash neither loses nor doubles anything.
 */
export function openState(file) {
  const empty = { rows: {}, sequences: {}, taken: 0, repeats: 0, disorder: 0, place: null };
  const state = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : empty;
  return {
    state,
    save() {
      writeFileSync(`${file}.new`, JSON.stringify(state));
      renameSync(`${file}.new`, file);
    },
  };
}
