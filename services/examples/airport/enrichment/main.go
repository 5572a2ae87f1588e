// Enrichment joins a flight with its weather and its aircraft.
package main

func main() {}
