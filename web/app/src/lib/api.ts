// The public interface, as any client uses it. Types come from the server's own description.
import type { components } from './api.gen';

export type S = components['schemas'];
export type Point = S['Point'];
export type Node = S['Node'];
export type Capture = S['Capture'];
export type Session = S['Session'];
export type Rate = S['Rate'];
export type Ledger = S['Ledger'];
export type Capabilities = S['Capabilities'];
export type Token = S['Token'];
export type Right = Session['rights'][number];

/** What the server says when something cannot be done. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly field = '',
    readonly hint = '',
    readonly position = 0,
  ) {
    super(message);
  }
}

let signedOut: () => void = () => {};

/** onSignedOut is told when the server no longer knows who we are. */
export function onSignedOut(fn: () => void) {
  signedOut = fn;
}

export interface Ask {
  method?: string;
  body?: unknown;
  query?: Record<string, string | number | undefined | string[]>;
  signal?: AbortSignal;
  quiet?: boolean; // a 401 is the caller's to handle
}

export function url(path: string, query: Ask['query'] = {}): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) {
    if (v === undefined || v === '') continue;
    for (const one of Array.isArray(v) ? v : [v]) q.append(k, String(one));
  }
  const s = q.toString();
  return s ? `${path}?${s}` : path;
}

export async function ask<T>(path: string, a: Ask = {}): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  if (a.method && a.method !== 'GET') headers['OpenTap-Page'] = '1';
  if (a.body !== undefined) headers['Content-Type'] = 'application/json';
  let resp: Response;
  try {
    resp = await fetch(url(path, a.query), {
      method: a.method ?? 'GET',
      headers,
      body: a.body === undefined ? undefined : JSON.stringify(a.body),
      credentials: 'same-origin',
      cache: 'no-store',
      signal: a.signal,
    });
  } catch (e) {
    if (a.signal?.aborted) throw e;
    throw new Refusal(0, 'unavailable', 'the server cannot be reached');
  }
  if (resp.status === 204) return undefined as T;
  let doc: unknown;
  try {
    doc = await resp.json();
  } catch {
    throw new Refusal(resp.status, 'internal', `the server answered ${resp.status} in a form that is not understood`);
  }
  if (resp.ok) return doc as T;
  const e = (doc as S['Error']).error;
  if (resp.status === 401 && !a.quiet) signedOut();
  throw new Refusal(resp.status, e?.kind ?? 'internal', e?.message ?? `the server answered ${resp.status}`, e?.field, e?.hint, e?.position);
}

/** capturePath spells an id as one segment: ids are opaque text. */
export function capturePath(id: string, rest = ''): string {
  const one = /^\.+$/.test(id) ? id.replace(/\./g, '%2E') : encodeURIComponent(id);
  return `/v1/captures/${one}${rest}`;
}

export const may = (s: Session | null, right: Right) => !!s?.rights.includes(right);

/** message puts any error in words. */
export function message(e: unknown): string {
  if (e instanceof Refusal) return (e.field ? `${e.field}: ` : '') + e.message + (e.hint ? ` — ${e.hint}` : '');
  return e instanceof Error ? e.message : String(e);
}
