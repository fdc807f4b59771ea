import { tokenHeaders } from './stream.js';

/** The token may not ask this. */
export class Refused extends Error {}

/** Nobody can answer at the moment: whoever would is away, or only starting. */
export class Away extends Error {}

export async function ask<Answer>(path: string): Promise<Answer> {
  return (await asked(path)).json() as Promise<Answer>;
}

export async function askText(path: string): Promise<string> {
  return (await asked(path)).text();
}

/** What cannot be asked, by this token or of this process, or is not there, is null. */
export async function askPerhaps<Answer>(path: string): Promise<Answer | null> {
  try {
    return await ask<Answer>(path);
  } catch (error) {
    if (error instanceof Refused || error instanceof NotThere) return null;
    throw error;
  }
}

class NotThere extends Error {}

async function asked(path: string): Promise<Response> {
  const response = await fetch(`/v1/${path}`, { headers: tokenHeaders() });
  if (response.status === 401 || response.status === 403) throw new Refused(path);
  if (response.status === 400 || response.status === 404) throw new NotThere(path);
  if (response.status === 503) throw new Away(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}
