import { randomBytes } from 'node:crypto';

/** Names that are never given twice; simulated in simulation. */
export interface Random {
  /** Text fit for URLs and subjects, of so many random bytes. */
  token(bytes: number): string;
}

export const systemRandom: Random = {
  token: (bytes) => randomBytes(bytes).toString('base64url'),
};
