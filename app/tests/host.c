/* A host in C: says two things to the real model, stops the second reply, and checks what comes back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proofmark.h"

static void fail(const char *what, const char *got) {
  fprintf(stderr, "%s: got %s\n", what, got ? got : "nothing");
  exit(1);
}

/* The next event of a kind, to be freed; events of other kinds are passed over. */
static char *until(const Proofmark *core, const char *kind) {
  char wanted[64];
  snprintf(wanted, sizeof wanted, "{\"event\":\"%s\"", kind);
  for (;;) {
    char *event = proofmark_next_event(core, 60000);
    if (!event) fail(kind, NULL);
    if (strncmp(event, wanted, strlen(wanted)) == 0) return event;
    proofmark_free_string(event);
  }
}

static void expect(char *event, const char *part) {
  if (!strstr(event, part)) fail(part, event);
  proofmark_free_string(event);
}

static void send(const Proofmark *core, const char *command) {
  char *error = NULL;
  if (proofmark_send(core, command, &error) != PROOFMARK_OK) fail(command, error);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  if (proofmark_abi_version() != PROOFMARK_ABI_VERSION) fail("the header's version", "another library's");
  char *error = NULL;
  if (proofmark_start("{}", &error)) fail("a start without a cache", "a core");
  expect(error, "cache");
  if (proofmark_start(NULL, NULL)) fail("a start from nothing", "a core");

  char config[4096];
  snprintf(config, sizeof config, "{\"cache\":\"%s/cache\",\"data\":\"%s/data\",\"threads\":1}", argv[1], argv[1]);
  Proofmark *core = proofmark_start(config, &error);
  if (!core) fail("start", error);
  expect(until(core, "card"), "\"sha256\"");
  expect(until(core, "ready"), "\"temperature\"");

  error = NULL;
  if (proofmark_send(core, "{\"command\":\"fly\"}", &error) != PROOFMARK_INVALID) fail("an unknown command", error);
  expect(error, "fly");
  if (proofmark_send(core, NULL, NULL) != PROOFMARK_INVALID) fail("no command", "another answer");

  send(core, "{\"command\":\"say\",\"text\":\"hello\"}");
  expect(until(core, "reply"), "\"finish\":\"stop\"");
  send(core, "{\"command\":\"set\",\"settings\":{\"temperature\":2.0,\"tokens_max\":400}}");
  /* A small model replies within milliseconds, and this thread may be held up for longer: then once more. */
  for (int stopped = 0, tries = 0; !stopped; tries++) {
    if (tries == 40) fail("a stop that came in time", "none");
    send(core, "{\"command\":\"say\",\"text\":\"tell me of the sea\"}");
    proofmark_stop(core);
    char *reply = until(core, "reply");
    stopped = strstr(reply, "\"finish\":\"interrupted\"") != NULL;
    proofmark_free_string(reply);
  }
  send(core, "{\"command\":\"list\"}");
  expect(until(core, "listed"), "\"title\":\"hello\"");

  char *provenance = proofmark_provenance();
  if (!provenance) fail("provenance", NULL);
  expect(provenance, "\"embedded_sha256\"");
  if (proofmark_next_event(core, 0)) fail("an event that nobody asked for", "one");
  proofmark_close(core);
  proofmark_close(NULL);
  proofmark_stop(NULL);
  proofmark_free_string(NULL);
  puts("ok");
  return 0;
}
