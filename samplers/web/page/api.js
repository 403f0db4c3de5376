// Requests to the server. Errors carry the server's own sentence.

// Of a page that is being left the browser sends them all the same, if `leaving`.
export async function call(method, path, body, leaving = false) {
  const options = { method, headers: {}, keepalive: leaving };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is halberd web still running?");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const text = await response.text();
  let message = text.length < 300 && text ? text : `The server answered ${response.status}.`; // the token is missing, say
  try {
    message = JSON.parse(text).error ?? message;
  } catch { /* no JSON */ }
  const error = new Error(message);
  error.status = response.status;
  throw error;
}

// The room of this browser: that of the address, else the last one, else a new one.
export async function enter(fresh = false) {
  let room = fresh ? null : location.hash.slice(1) || localStorage.getItem("halberd-room");
  if (room) {
    try {
      await call("GET", `rooms/${encodeURIComponent(room)}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      room = null;
    }
  }
  room ??= (await call("POST", "rooms")).room;
  localStorage.setItem("halberd-room", room);
  history.replaceState(null, "", `#${room}`);
  return `rooms/${room}`;
}
