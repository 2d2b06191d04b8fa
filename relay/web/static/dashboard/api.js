/** Requests to the relay's public doors, with the session's cookie; every failure is a Problem with a sentence. */

export class Problem extends Error {
  constructor(status, { detail, error, code, problems = [] } = {}) {
    super(detail ?? error ?? `The relay answered ${status}.`)
    this.status = status
    this.code = code
    this.problems = problems
  }
}

const signedOut = new Set()

/** Call `listener` when the relay no longer knows who we are. */
export const onSignedOut = (listener) => signedOut.add(listener)

/** The JSON that the relay answers (null for a 204); `body` is JSON, or bytes where `type` names theirs. */
export async function call(method, path, body, { type, ...more } = {}) {
  let response
  try {
    response = await fetch(path, {
      method,
      credentials: 'same-origin',
      cache: 'no-store',
      headers: { Accept: 'application/json', ...(body !== undefined && { 'Content-Type': type ?? 'application/json' }), ...more },
      body: body === undefined || type ? body : JSON.stringify(body),
    })
  } catch {
    throw new Problem(0, { detail: 'The relay cannot be reached.', code: 'offline' })
  }
  const answer = response.status === 204 ? null : await response.json().catch(() => ({}))
  if (response.ok) return answer
  if (response.status === 401 && path !== '/session') for (const listener of signedOut) listener()
  throw new Problem(response.status, answer)
}

export const get = (path, query) => call('GET', query ? `${path}?${search(query)}` : path)
export const post = (path, body = {}, more) => call('POST', path, body, more)

/** A key that makes a request that is sent twice one request. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join('-')

/** A query of what is set; lists are repeated. */
export function search(query) {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(query))
    for (const each of [value].flat()) if (each !== undefined && each !== null && each !== '') params.append(name, each)
  return params
}
