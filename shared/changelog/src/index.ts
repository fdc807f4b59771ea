export type {
  BatchDraft,
  ChangelogOptions,
  Changelogs,
  ChangelogStatus,
  ChangelogWriter,
  LastBatch,
  ReadOptions,
} from './changelog.ts';
export { SectionDraft } from './draft.ts';
