#!/usr/bin/env bash
# Takes the jars of interop/plain/java into build/java, and compiles what is there. The tests that need it call it: it
# wants Java 17 and Maven, which nothing else does. Does nothing when nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
source=interop/plain/java
out=build/java
mkdir -p "$out"
# Tests that run side by side wait for each other.
exec 9>"$out/.lock"
flock 9
if [ "$source/pom.xml" -nt "$out/.jars" ]; then
  rm -rf "$out/lib"
  mvn --batch-mode --quiet --file "$source/pom.xml" "-Dmaven.repo.local=$PWD/$out/repository" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$PWD/$out/lib" >&2
  touch "$out/.jars"
fi
if [ "$source/Caller.java" -nt "$out/classes/Caller.class" ]; then
  javac -Xlint:all,-processing -Werror -cp "$out/lib/*" -d "$out/classes" "$source/Caller.java" >&2
fi
