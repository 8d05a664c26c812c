#include "config/about.h"

#include <stddef.h>
#include <string.h>

static const struct about abouts[] = {
    {"up",
     "Starts everything that a service needs on this machine, a broker, gateways, inference "
     "workers "
     "and response workers, and ends it again with Ctrl-C: new prompts are refused then, accepted "
     "ones are answered.\n"
     "The API is OpenAI's, at http://127.0.0.1:8080/v1.",
     "wyvern up\tserve the default model\n"
     "wyvern up --model qwen.gguf --workers 2 --slots 8\ta model of yours, sixteen replies at "
     "once\n"
     "wyvern up --host 0.0.0.0 --keys keys --listen 10.0.0.1\tfor others, and with other nodes\n"},
    {"ask",
     "Writes the reply to standard output as it is made.  On a colour terminal its Markdown is "
     "drawn; "
     "to a pipe or a file goes the text itself.\n"
     "The question is the arguments, with standard input behind them when that is a pipe or a "
     "file, "
     "or where an argument is a lone \"-\".  In a loop that reads standard input itself, give ask "
     "</dev/null.",
     "wyvern ask \"Why is the sky blue?\"\tone question\n"
     "cat notes.txt | wyvern ask \"Summarise:\"\ta question about a file\n"
     "git diff | wyvern ask \"Review:\" - \"Be brief.\"\tstandard input in the middle\n"
     "wyvern ask --json \"Hi\" | jq .usage\tfor programs\n"},
    {"chat",
     "A conversation.  Ctrl-C stops a reply, whose words so far stay in the talk, or clears the "
     "line; "
     "Ctrl-D leaves.  Arrows recall what was asked before, also in earlier talks (the file "
     "chat_history in the state directory); what begins with a blank is not remembered.\n"
     "Several lines are one question when each but the last ends with a backslash, when they stand "
     "between \"\"\" and \"\"\", and when they are pasted.\n"
     "/help lists the commands: /model, /system, /params, /save, /load, /regenerate, /stats, "
     "/clear, "
     "/quit.  Tab completes them.\n"
     "Without a terminal each line of standard input is a question.",
     "wyvern chat\ttalk to the service of this machine\n"
     "wyvern chat --url http://gpu1:8080 --system \"You are brief.\"\tto another, with a system "
     "message\n"},
    {"batch",
     "Each line of IN.jsonl is {\"prompt\": \"...\"} or {\"messages\": [...]}, with any parameters "
     "of "
     "chat completions and a custom_id if you like, or a line of OpenAI's Batch API "
     "({\"custom_id\", "
     "\"method\", \"url\", \"body\"}).  IN.jsonl \"-\" is standard input.  The options are "
     "parameters "
     "of the lines that do not say otherwise.\n"
     "Each answer is one line of the output, with the number of the line it answers.  The output "
     "is "
     "the progress: stopped or killed, the same command goes on where it was, and what was being "
     "made then is not made twice.  A service that is full or away is asked again.\n"
     "A line that is broken or refused is reported with its number and answered with an \"error\"; "
     "the others go on, and the exit status is 65.",
     "wyvern batch in.jsonl -o out.jsonl\tall lines, as they come\n"
     "wyvern batch in.jsonl -o out.jsonl --ordered --parallel 16\tin order, sixteen at once\n"
     "jq -r .text out.jsonl\tthe texts alone\n"},
    {"load",
     "Asks fifteen built-in prompts seven times each, all at once, each as a person of its own, "
     "and "
     "draws how the workers shared them: who answered what, how long it took, how busy each was.",
     "wyvern load\t105 prompts\n"
     "wyvern load --prompts mine.txt --repeat 1 --concurrency 32\tyour own, 32 at once\n"},
    {"top",
     "Shows what each worker does now, the queue, tokens per second and latency, and draws it anew "
     "each second.  q leaves.",
     "wyvern top\twatch\nwyvern top --once --json\tone look, for programs\n"},
    {"status", "What there is at this moment, in a few lines.",
     "wyvern status\twhat runs\nwyvern status --json | jq .queue\tfor programs\n"},
    {"doctor",
     "Looks at what wyvern up would need: the broker's program, the model, ports, folders, limits. "
     " "
     "Each finding that is not well says what to do.",
     "wyvern doctor\tbefore the first wyvern up\n"},
    {"key",
     "With a file of keys each request needs one; the file holds hashes, the key itself is shown "
     "once, "
     "when it is made.  A running service sees changes within seconds.",
     "wyvern key add ann >ann.key\tmake one, for ann\n"
     "wyvern ask --key-file ann.key Hi\tuse it\n"
     "wyvern key revoke ann\ttake it back\n"},
    {"generate",
     "Loads the model in this process and answers one prompt: to try a model, and for tests.",
     "wyvern generate --model my.gguf \"Once upon a time\"\ttry a model\n"},
    {"convert",
     "Reads a checkpoint of Hugging Face's (a folder) or a GGUF file, and writes a GGUF file.  The "
     "file "
     "appears whole or not at all.",
     "wyvern convert blenderbot-400M-distill blenderbot.gguf\ta checkpoint\n"
     "wyvern convert --type q8_0 model.gguf small.gguf\tsmaller weights\n"},
    {"node",
     "Runs on another machine than wyvern up, with the join file that wyvern up --listen wrote "
     "there, "
     "and the same model file.",
     "wyvern node --join join.ini --workers 2\ttwo workers for that service\n"},
};

const struct about *about_find(const char *verb)
{
    for (size_t i = 0; i < sizeof abouts / sizeof abouts[0]; i++) {
        if (strcmp(abouts[i].verb, verb) == 0)
            return &abouts[i];
    }
    return NULL;
}
